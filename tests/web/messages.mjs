// Translates the lines of its standard input, for tests/web/test_messages.py: node messages.mjs LANGUAGE

import { readFileSync } from "node:fs";

import { fromServer } from "../../web/hswq/messages.js";
import { setLanguage } from "../../web/hswq/words.js";

setLanguage(process.argv[2]);
process.stdout.write(readFileSync(0, "utf-8").split("\n").map(fromServer).join("\n"));
