import type { ComponentType } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { ask, key, onUnknownCaller, Refused, setKey } from "./api";
import { Trouble } from "./known";
import { Cards } from "./pages/cards";
import { Chat } from "./pages/chat";
import { Fit } from "./pages/fit";
import { Images } from "./pages/images";
import { Keys } from "./pages/keys";
import { Models } from "./pages/models";
import { Plan } from "./pages/plan";
import { Refusals } from "./pages/refusals";
import { type Locked, SignIn } from "./pages/sign_in";
import { applyTheme, theme, type Theme } from "./theme";
import type { Me } from "./types";

export interface PageOf { me: Me; wish: URLSearchParams }

const PAGES: [string, string, ComponentType<PageOf>][] = [
  ["cards", "Cards", Cards], ["models", "Models", Models], ["refusals", "Refusals", Refusals], ["fit", "Fit", Fit], ["plan", "Plan", Plan],
  ["chat", "Chat", Chat], ["images", "Images", Images], ["keys", "Keys & usage", Keys],
];

/** The page that the address names: `#/chat?model=x`. */
function place(): { name: string; wish: URLSearchParams } {
  const [path = "", query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  return { name: PAGES.some(([name]) => name === path) ? path : "cards", wish: new URLSearchParams(query) };
}

export function App() {
  const [me, setMe] = useState<Me | null>(null);
  const [locked, setLocked] = useState<Locked | null>(null);
  const [error, setError] = useState<Refused | null>(null);
  const here = usePlace();
  const enter = () => ask<Me>("GET", "/v1/me").then((caller) => { setMe(caller); setError(null); }).catch((failed: Refused) => {
    if (failed.status !== 401) setError(failed);
  });
  useEffect(() => {
    onUnknownCaller((why) => {
      setLocked({ why, wrong: key() === null ? null : "The key is not valid any more; sign in again." });
      setKey(null);
      setMe(null);
    });
    void enter();
  }, []);
  if (locked !== null && me === null) return <SignIn before={locked} done={(caller) => { setMe(caller); setLocked(null); }} />;
  if (me === null) return <main class="sign-in">{error === null ? <p>Asking the gateway…</p> : <><Trouble error={error} /><button onClick={enter}>Try again</button></>}</main>;
  const Page = PAGES.find(([name]) => name === here.name)![2];
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); document.getElementById("main")!.focus(); }}>Skip to the page</a>
      <Side here={here.name} me={me} leave={() => { setKey(null); setMe(null); setLocked({ why: null, wrong: null }); }} />
      <main id="main" tabIndex={-1}><Page key={here.name} me={me} wish={here.wish} /></main>
    </>
  );
}

/** Follows the address; a new page gets a title, the focus and its beginning. */
function usePlace() {
  const [here, setHere] = useState(place);
  const first = useRef(true);
  useEffect(() => {
    const follow = () => setHere(place());
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  useEffect(() => {
    document.title = `${PAGES.find(([name]) => name === here.name)![1]} · rigserve`;
    if (!first.current) {
      document.getElementById("main")?.focus();
      scrollTo(0, 0);
    }
    first.current = false;
  }, [here.name]);
  return here;
}

function Side({ here, me, leave }: { here: string; me: Me; leave: () => void }) {
  const [look, setLook] = useState<Theme>(theme);
  const choose = (chosen: Theme) => { applyTheme(chosen); setLook(chosen); };
  return (
    <header class="side">
      <a class="brand" href="#/cards"><img src="/dashboard/icon.svg" alt="" width="22" height="22" /> rigserve</a>
      <nav aria-label="Pages">
        {PAGES.map(([name, title]) => <a key={name} href={`#/${name}`} aria-current={name === here ? "page" : undefined}>{title}</a>)}
      </nav>
      <div class="side-end">
        <label>Theme
          <select value={look} onChange={(event) => choose(event.currentTarget.value as Theme)}>
            <option value="auto">as the system</option><option value="light">light</option><option value="dark">dark</option>
          </select>
        </label>
        {me.keyed ? <p class="small who">{me.name} ({me.role}) <button class="plain" onClick={leave}>Sign out</button></p> : <p class="small who open">no keys: none is asked for</p>}
      </div>
    </header>
  );
}
