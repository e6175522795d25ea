import yaml

from tspo.evaluation.report.settings import settings_text


def test_settings_are_shown_as_they_are():
    settings = {
        "model": "ü",
        "training": {"steps": 3, "max_turn_tokens": 64, "lora": None},
        "data": {"train": ["a", "b"]},
    }
    text = settings_text(settings)
    assert yaml.safe_load(text) == settings
    assert text.index("model") < text.index("data")


def test_what_gives_access_is_not_shown():
    settings = {"training": {"trl": {"hub_token": "hf_1", "push": [{"API_KEY": "hf_2"}], "password": ["hf_3"]}}}
    text = settings_text(settings)
    assert "hf_" not in text
    assert text.count("(not shown)") == 3


def test_an_empty_secret_is_no_secret():
    assert yaml.safe_load(settings_text({"hub_token": None})) == {"hub_token": None}
