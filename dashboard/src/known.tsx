import type { ComponentChildren } from "preact";
import type { Refused } from "./api";
import type { Figure } from "./types";

/** A figure, or "unknown: why". Never a 0 that nobody measured. */
export function Known({ value, why, show }: { value: Figure | undefined; why: string; show: (value: number) => string }) {
  if (value === null || value === undefined) return <span class="unknown">unknown: {why}</span>;
  return <span class="figure">{show(value)}</span>;
}

/** One named figure of a row. */
export function Fact({ name, children }: { name: string; children: ComponentChildren }) {
  return (
    <div class="fact">
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

const GOOD = ["ready", "ok", "active"];
const BAD = ["failed", "lost", "unreachable", "revoked", "suspect"];

/** A state in words, with a dot whose colour says the same again. */
export function State({ state }: { state: string }) {
  const tone = GOOD.includes(state) ? "good" : BAD.includes(state) ? "bad" : "between";
  return <span class={`state ${tone}`}>{state}</span>;
}

export const Simulated = () => <span class="badge" title="Host memory that stands in for a card; its figures are not a GPU's">simulated</span>;

export function Trouble({ error }: { error: Refused | null }) {
  if (error === null) return null;
  return (
    <div class="trouble" role="alert">
      <p>{error.message}</p>
      {error.code === "unknown" ? null : <p class="small">{error.code}</p>}
    </div>
  );
}
