import { useState } from "preact/hooks";
import { ask, Refused } from "./api";
import { Trouble } from "./known";
import type { Key } from "./types";

interface Wish { name: string; role: string; models: string; requests: string; tokens: string; days: string }
const NONE: Wish = { name: "", role: "user", models: "", requests: "", tokens: "", days: "" };

/** Makes a key and shows its secret, once. */
export function NewKey({ made }: { made: () => void }) {
  const [wish, setWish] = useState<Wish>(NONE);
  const [key, setKey] = useState<Key | null>(null);
  const [error, setError] = useState<Refused | null>(null);
  const field = (name: keyof Wish) => ({ value: wish[name], onInput: (event: { currentTarget: HTMLInputElement }) => setWish({ ...wish, [name]: event.currentTarget.value }) });
  const create = async (event: Event) => {
    event.preventDefault();
    try {
      setKey(await ask<Key>("POST", "/admin/keys", questionOf(wish)));
      setWish(NONE);
      setError(null);
      made();
    } catch (failed) {
      setError(failed as Refused);
    }
  };
  return (
    <>
      <details class="new-key"><summary>New key</summary>
        <form class="controls" onSubmit={create}>
          <label>Name<input required maxLength={100} autocomplete="off" {...field("name")} /></label>
          <label>Role<select value={wish.role} onChange={(event) => setWish({ ...wish, role: event.currentTarget.value })}><option>user</option><option>admin</option></select></label>
          <label>Models<input placeholder="all; or names with commas" spellcheck={false} {...field("models")} /></label>
          <label>Requests a minute<input type="number" min={0} placeholder="no limit" {...field("requests")} /></label>
          <label>Tokens a day<input type="number" min={0} placeholder="no limit" {...field("tokens")} /></label>
          <label>Expires after days<input type="number" min={1} max={3660} placeholder="never" {...field("days")} /></label>
          <button class="primary">Create</button>
        </form>
      </details>
      <Trouble error={error} />
      {key?.key === undefined ? null : (
        <div class="secret" role="status">
          <p>The key of {key.name}. It is shown this once; nothing keeps it.</p>
          <p><code>{key.key}</code></p>
          <p>{window.isSecureContext ? <button onClick={() => void navigator.clipboard.writeText(key.key!)}>Copy</button> : null} <button onClick={() => setKey(null)}>Done</button></p>
        </div>
      )}
    </>
  );
}

function questionOf(wish: Wish): Record<string, unknown> {
  const limits: Record<string, unknown> = {};
  if (wish.requests !== "") limits["requests"] = { minute: Number(wish.requests) };
  if (wish.tokens !== "") limits["tokens"] = { day: Number(wish.tokens) };
  const models = wish.models.split(",").map((name) => name.trim()).filter((name) => name !== "");
  return {
    name: wish.name, role: wish.role, limits, models: models.length === 0 ? null : models,
    expires_in_s: wish.days === "" ? null : Number(wish.days) * 86400,
  };
}
