// Reads JSON documents, one a line: see pythonReader in json.go.
import { createInterface } from "node:readline";

for await (const line of createInterface({ input: process.stdin })) {
  const { doc, names } = JSON.parse(line);
  try {
    // As fetch's Request.json() does: UTF-8, what is not becomes U+FFFD.
    const got = JSON.parse(new TextDecoder().decode(Buffer.from(doc, "base64")));
    const found = Object.fromEntries(names.filter((n) => Object.hasOwn(got, n)).map((n) => [n, got[n]]));
    console.log(JSON.stringify(found));
  } catch (e) {
    console.log("null");
    console.error(e);
  }
}
