"""The agent loop and the samplers that it runs on."""
