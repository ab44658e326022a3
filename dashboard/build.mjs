// node build.mjs [FOLDER]: bundles src/ into FOLDER (the gateway's own by default). The same sources give the same bytes: versions are
// pinned by package-lock.json, and nothing of the machine goes in. build.json says which sources these bytes are of.
import { build } from "esbuild";
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, "..", "services", "gateway", "dashboard");
const source = (name) => join(here, "src", name);
const sha256 = (path) => createHash("sha256").update(readFileSync(path)).digest("hex");
const preact = JSON.parse(readFileSync(join(here, "node_modules", "preact", "package.json"), "utf8"));
const licence = readFileSync(join(here, "node_modules", "preact", "LICENSE"), "utf8").trim();

mkdirSync(out, { recursive: true });
await build({
  entryPoints: { app: source("main.tsx") },
  absWorkingDir: here,
  bundle: true,
  outdir: out,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  minify: true,
  charset: "utf8",
  legalComments: "none",
  banner: { js: `/* rigserve dashboard, made by \`make dashboard\` from dashboard/. Contains preact ${preact.version}:\n${licence} */` },
});
await build({ entryPoints: { app: source("style.css") }, absWorkingDir: here, bundle: true, outdir: out, minify: true, charset: "utf8" });
for (const name of ["index.html", "icon.svg"]) cpSync(source(name), join(out, name));

const made = ["app.css", "app.js", "icon.svg", "index.html"];
const of = ["build.mjs", "package.json", "package-lock.json", "tsconfig.json"].map((name) => join(here, name));
of.push(...readdirSync(join(here, "src"), { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name)));
const sums = (paths, root) =>
  Object.fromEntries(paths.map((path) => [relative(root, path), sha256(path)]).sort(([a], [b]) => (a < b ? -1 : 1)));
const record = { sources: sums(of, here), built: sums(made.map((name) => join(out, name)), out) };
writeFileSync(join(out, "build.json"), JSON.stringify(record, null, 1) + "\n");
