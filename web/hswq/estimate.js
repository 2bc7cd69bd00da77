// HSWQ Quantize: what the next run takes, under its chart: disk, memory, and time where an earlier run tells.

import { duration, size } from "./format.js";
import { say } from "./words.js";

const STEPS = { measuring: "measuring about {0}", rounding: "rounding about {0}" };

/**
 * The server's estimate in words, and what of it is in the way.
 *
 * ``bytes`` is the size of the file that the chart shows; without it, the least that it can have is told.
 * ``measures`` is whether the node can measure what is not measured yet.
 */
export function describeEstimate(found, bytes, measures) {
    const needed = bytes ?? found.least_bytes;
    const disk = bytes === null ? "disk: at least {0} of {1} free" : "disk: {0} of {1} free";
    const facts = [say(disk, size(needed), size(found.disk_free)), say(inRam(found) ? "RAM: {0}" : "VRAM: {0}", size(found.memory))];
    const steps = measures ? found.seconds : { rounding: found.seconds.rounding };
    for (const [step, seconds] of Object.entries(steps)) {
        if (seconds !== null) facts.push(say(STEPS[step], duration(seconds)));
    }
    const problems = needed > found.disk_free ? [say("there is not enough free space on the disk")] : [];
    if (measures && found.measuring) {
        const { memory, total } = found.measuring;
        const figures = [size(memory), size(total)];
        const where = inRam(found.measuring) ? "measuring: {0} of {1} of RAM" : "measuring: {0} of {1} of VRAM";
        facts.push(say(where, ...figures));
        if (memory > total) problems.push(say("measuring does not fit: parts of the model are moved in and out, which is slow"));
    }
    return { text: facts.join("  ·  "), problem: problems.join("; ") };
}

function inRam(part) {
    return part.memory_of === "CPU";
}
