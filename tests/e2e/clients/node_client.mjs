// What a Node program with @google/genai does; prints one JSON line per step.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [baseUrl, modulesFolder] = process.argv.slice(2);
const require = createRequire(pathToFileURL(modulesFolder + "/").href);
const { GoogleGenAI } = require("@google/genai");

const say = (step, result) => console.log(JSON.stringify([step, result]));
const model = "gemini-2.5-flash";
const ai = new GoogleGenAI({ apiKey: "test-key-of-client", httpOptions: { baseUrl } });

const answer = await ai.models.generateContent({ model, contents: "simulate 5 sentences" });
say("unary", [answer.text, answer.usageMetadata.totalTokenCount]);
let text = "";
let pieces = 0;
for await (const piece of await ai.models.generateContentStream({ model, contents: "simulate 30 sentences" })) {
  text += piece.text ?? "";
  pieces += 1;
}
say("stream", [text, pieces]);
say("count", (await ai.models.countTokens({ model, contents: "how many tokens" })).totalTokens);
const embedded = await ai.models.embedContent({ model: "gemini-embedding-001", contents: ["one"] });
say("embed", embedded.embeddings[0].values.slice(0, 4));
const chat = ai.chats.create({ model });
say("chat", [(await chat.sendMessage({ message: "first" })).text, (await chat.sendMessage({ message: "second" })).text]);
try {
  await ai.models.generateContent({ model: "no-such-model", contents: "x" });
} catch (error) {
  say("error", error.status);
}
const stored = await ai.files.upload({ file: new Blob(["hello world"]), config: { mimeType: "text/plain" } });
say("upload", [stored.sizeBytes, stored.state]);
