// Where the page's content comes from: the server, or, in a static file, the file itself.

export const STATES = ["right", "near miss", "wrong"];

async function ask(path) {
  const reply = await fetch(path);
  const content = await reply.json();
  if (!reply.ok) throw new Error(typeof content.detail === "string" ? content.detail : `error ${reply.status}`);
  return content;
}

const server = {
  isStatic: false,
  runs: () => ask("api/runs"),
  curves: () => ask("api/curves"),
  group: (run, id) => ask(`api/runs/${run}/groups/${id}`),
  groups(run, wanted, offset) {
    const query = new URLSearchParams({ text: wanted.text, all_wrong: wanted.allWrong, offset });
    for (const state of wanted.states) query.append("state", state);
    if (wanted.first !== null) query.set("first", wanted.first);
    if (wanted.last !== null) query.set("last", wanted.last);
    return ask(`api/runs/${run}/groups?${query}`);
  },
};

function fromFile(data) {
  const isWanted = (group, wanted) =>
    wanted.states.every((state) => group[state] > 0) &&
    !(wanted.allWrong && group.right > 0) &&
    group.words.includes(wanted.text.trim().toLowerCase()) &&
    (wanted.first === null || group.at >= wanted.first) &&
    (wanted.last === null || group.at <= wanted.last);
  return {
    isStatic: true,
    runs: async () => data.runs,
    curves: async () => data.curves,
    async group(run, id) {
      const found = data.views[run][id];
      if (!found) throw new Error("this file does not hold that group");
      return found;
    },
    async groups(run, wanted, offset) {
      const found = data.groups[run].filter((group) => isWanted(group, wanted));
      const trajectories = found.reduce((sum, group) => sum + group.members, 0);
      return { groups: found.slice(offset, offset + data.runs.page), total: found.length, trajectories, offset };
    },
  };
}

const embedded = document.getElementById("data");
export const source = embedded ? fromFile(JSON.parse(embedded.textContent)) : server;
