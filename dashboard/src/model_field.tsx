import { useEffect } from "preact/hooks";
import { usePolled } from "./polling";
import type { List, Model } from "./types";

/** The model to ask: one of those that are served, or any name (what is not served is refused, with the reason). */
export function ModelField({ kind, value, set }: { kind: "text" | "image"; value: string; set: (model: string) => void }) {
  const models = usePolled<List<Model>>("/v1/models", 10);
  const fitting = (models.data?.data ?? []).filter((model) => model.kind === null || model.kind === kind);
  useEffect(() => {
    const first = fitting.find((model) => model.state === "ready") ?? fitting[0];
    if (value === "" && first !== undefined) set(first.id);
  }, [fitting.length]);
  return (
    <label class="name">Model
      <input list={`models-${kind}`} value={value} spellcheck={false} onInput={(event) => set(event.currentTarget.value)} />
      <datalist id={`models-${kind}`}>{fitting.map((model) => <option key={model.id} value={model.id}>{model.state}</option>)}</datalist>
    </label>
  );
}

export function AdminsDont({ what }: { what: string }) {
  return (
    <>
      <header class="page-head"><h1>{what}</h1></header>
      <p class="empty">You are signed in with an admin key. Admin keys manage and never infer: sign in with a user key (you can make one under Keys).</p>
    </>
  );
}
