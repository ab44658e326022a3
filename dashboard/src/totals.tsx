import { count, digits } from "./format";
import { Known } from "./known";
import type { Throughput } from "./types";

/** The rig in one line. */
export function Totals({ flow, ready }: { flow: Throughput; ready: string }) {
  const { totals } = flow;
  const refused = Object.values(totals.refused).reduce((sum, n) => sum + n, 0);
  return (
    <dl class="totals">
      <div><dt>Engines ready</dt><dd>{ready}</dd></div>
      <div><dt>Requests running</dt><dd>{count(totals.running)}</dd></div>
      <div><dt>Output tok/s</dt><dd><Known value={totals.output_tokens_per_s} why={totals.reasons["output_tokens_per_s"] ?? ""} show={digits} /></dd></div>
      <div><dt>Images/s</dt><dd><Known value={totals.images_per_s} why={totals.reasons["images_per_s"] ?? ""} show={digits} /></dd></div>
      <div><dt>Refused</dt><dd><a href="#/refusals">{count(refused)}</a></dd></div>
    </dl>
  );
}
