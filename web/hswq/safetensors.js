// The header of a safetensors file, and whether the file is quantized.

const LARGEST_HEADER = 100_000_000;
const SMALL_TYPES = new Set(["F8_E4M3", "I8"]);

/** The header as an object; an empty one where the file is no safetensors file. */
export async function readHeader(file) {
    try {
        const start = new DataView(await file.slice(0, 8).arrayBuffer());
        const length = Number(start.getBigUint64(0, true));
        if (length > LARGEST_HEADER) return {};
        return JSON.parse(await file.slice(8, 8 + length).text());
    } catch {
        return {};
    }
}

export function isOurs(header) {
    return Boolean(header.__metadata__?.["hswq.mode"]);
}

/** HSWQ's files, and those of other tools with weights of one byte. */
export function isQuantized(header) {
    const isSmall = ([name, { dtype }]) => name.endsWith(".weight") && SMALL_TYPES.has(dtype);
    return isOurs(header) || Object.entries(header).some(isSmall);
}
