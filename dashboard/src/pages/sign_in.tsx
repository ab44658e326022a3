import { useState } from "preact/hooks";
import { ask, setKey } from "../api";
import type { Me } from "../types";

/** Why nobody is let in: what the gateway says of callers without a key, and what was wrong with the key that was here. */
export interface Locked { why: string | null; wrong: string | null }

/** Asks for an API key and tries it; it stays in this tab's session. */
export function SignIn({ done, before }: { done: (me: Me) => void; before: Locked }) {
  const [secret, setSecret] = useState("");
  const [said, setSaid] = useState<string | null>(before.wrong);
  const [busy, setBusy] = useState(false);
  const enter = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setKey(secret.trim());
    try {
      done(await ask<Me>("GET", "/v1/me"));
    } catch (failed) {
      setKey(null);
      setSaid(failed instanceof Error ? failed.message : String(failed));
    } finally {
      setBusy(false);
    }
  };
  return (
    <main class="sign-in">
      <form onSubmit={enter}>
        <h1>rigserve</h1>
        <p>This gateway asks for an API key.</p>
        <label>API key
          <input type="password" value={secret} onInput={(event) => setSecret(event.currentTarget.value)} autocomplete="off" spellcheck={false} required />
        </label>
        <button class="primary" disabled={busy || secret.trim() === ""}>Sign in</button>
        {before.why === null || said !== null ? null : <p class="small">It says: {before.why}</p>}
        {said === null ? null : <p class="trouble" role="alert">{said}</p>}
        <p class="small">The key stays in this tab until it is closed; it is sent to this gateway only. A user key chats and paints, an admin key manages keys.</p>
      </form>
    </main>
  );
}
