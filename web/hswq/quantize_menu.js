// From a checkpoint's loader, by its menu or the buttons above it: the quick start's nodes are put below the workflow and
// connected to it.

import { arrange } from "./example.js";
import { say } from "./words.js";

const LOADER = "CheckpointLoaderSimple";
const QUICK_START = encodeURIComponent("HSWQ 1 Quick start in 8 bits.json");
const GAP = 80;

const COMMAND = "HSWQ.Quantize";

/** What the page adds to a node's menu. */
export function menuOf(node, app, api) {
    if (node.comfyClass !== LOADER) return [];
    return [{ content: say("Quantize with HSWQ"), callback: () => quantizeBehind(node, app, api) }];
}

/** The same as a command: some pages draw nodes as elements whose menus have no room for others' items. */
export function command(app, api) {
    const chosen = () => Object.values(app.canvas.selected_nodes).find((node) => node.comfyClass === LOADER);
    const run = () => chosen() && quantizeBehind(chosen(), app, api);
    return { id: COMMAND, label: "Quantize with HSWQ", icon: "pi pi-box", function: run };
}

/** The commands that are offered above what is selected. */
export function commandsOf(item) {
    return item.comfyClass === LOADER ? [COMMAND] : [];
}

async function quantizeBehind(loader, app, api) {
    const pack = new URL(import.meta.url).pathname.split("/extensions/")[1].split("/")[0];
    const response = await api.fetchApi(`/workflow_templates/${pack}/${QUICK_START}`);
    const example = await response.json();
    const graph = loader.graph ?? app.graph;
    graph.beforeChange?.();
    const { nodes, groups } = insert(example, loader, graph);
    graph.afterChange?.();
    arrange(app, nodes, groups);
}

/** The example's nodes and groups, less its notes and its own loader, whose place the given one takes. */
function insert(example, loader, graph) {
    const lowest = Math.max(...graph._nodes.map((each) => each.pos[1] + each.size[1]));
    const boxes = example.groups.map(({ bounding }) => bounding);
    const left = loader.pos[0] - Math.min(...boxes.map(([x]) => x));
    const down = lowest + GAP - Math.min(...boxes.map(([, y]) => y));
    const nodes = new Map();
    for (const data of example.nodes) {
        if (data.type === "MarkdownNote") continue;
        nodes.set(data.id, data.type === LOADER ? loader : add(data, graph, left, down));
    }
    for (const [, from, output, to, input] of example.links) {
        const target = nodes.get(to);
        const { name } = example.nodes.find((each) => each.id === to).inputs[input];
        nodes.get(from).connect(output, target, target.findInputSlot(name));
    }
    const groups = example.groups.map((data) => {
        const group = new globalThis.LiteGraph.LGraphGroup(data.title);
        const [x, y, width, height] = data.bounding;
        group.configure({ ...data, bounding: [x + left, y + down, width, height] });
        graph.add(group);
        return group;
    });
    return { nodes: [...nodes.values()].filter((node) => node !== loader), groups };
}

function add(data, graph, left, down) {
    const node = globalThis.LiteGraph.createNode(data.type);
    const pos = [data.pos[0] + left, data.pos[1] + down];
    node.pos = [...pos];
    graph.add(node); // where the page draws nodes as elements, it remembers the place from here on
    node.configure({
        ...data,
        id: node.id,
        pos,
        inputs: data.inputs.map((input) => ({ ...input, link: null })),
        outputs: data.outputs.map((output) => ({ ...output, links: [] })),
    });
    return node;
}
