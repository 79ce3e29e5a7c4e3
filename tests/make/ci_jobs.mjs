// The jobs of pipelines, one after the other: gitlab-ci-local's own reading, without a start of
// Node for each. A line in is {"cwd": ..., "variable": [...], "unsetVariable": [...]}, a line out
// {"csv": ...} or {"error": ...}.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const source = (name) => import(pathToFileURL(`${process.argv[2]}/src/${name}.js`));
const { handler } = await source("handler");
const { WriteStreamsMock } = await source("write-streams");

for await (const line of createInterface({ input: process.stdin })) {
  const streams = new WriteStreamsMock();
  let answer;
  try {
    const { cwd, ...variables } = JSON.parse(line);
    process.chdir(cwd);
    const options = { listCsv: true, noColor: true, jsonSchemaValidation: false };
    await handler({ ...options, ...variables }, streams);
    answer = { csv: streams.stdoutLines.join("\n") };
  } catch (error) {
    answer = { error: `${error.message}` };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
