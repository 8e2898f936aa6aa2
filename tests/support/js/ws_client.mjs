// The scenario under node with npm's ws. One argument: its configuration in JSON; prints what it saw in JSON.
import { readFileSync } from "node:fs";
import WebSocket from "ws";

const source = readFileSync(new URL("./scenario.js", import.meta.url), "utf8");
const scenario = new Function(source + "; return scenario;")();
console.log(JSON.stringify(await scenario(WebSocket, JSON.parse(process.argv[2]))));
process.exit(0);
