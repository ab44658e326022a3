import { useEffect, useState } from "preact/hooks";
import { ask, Refused } from "./api";

export interface Polled<T> { data: T | null; error: Refused | null; again: () => void }

/** What `path` says, asked again every `everyS` seconds while the page is looked at; null everyS: once. */
export function usePolled<T>(path: string | null, everyS: number | null): Polled<T> {
  const [data, setData] = useState<T | null>(null);
  const [error, setError] = useState<Refused | null>(null);
  const [round, setRound] = useState(0);
  useEffect(() => {
    if (path === null) return undefined;
    const gone = new AbortController();
    let timer = 0;
    const look = async () => {
      if (!document.hidden) {
        try {
          setData(await ask<T>("GET", path, undefined, gone.signal));
          setError(null);
        } catch (failed) {
          if (gone.signal.aborted) return;
          setError(failed instanceof Refused ? failed : new Refused(String(failed), 0, "unknown"));
        }
      }
      if (everyS !== null && !gone.signal.aborted) timer = window.setTimeout(look, everyS * 1000);
    };
    void look();
    return () => {
      gone.abort();
      window.clearTimeout(timer);
    };
  }, [path, everyS, round]);
  return { data, error, again: () => setRound((n) => n + 1) };
}
