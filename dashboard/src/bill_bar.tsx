import { gib } from "./format";
import type { Bill, Figure, Report } from "./types";

const LINES: [keyof Bill, string, string][] = [
  ["weights_bytes", "weights", "Weights"], ["lora_bytes", "lora", "LoRA"], ["kv_cache_bytes", "kv", "KV cache"],
  ["activation_bytes", "activations", "Activations"], ["engine_bytes", "engine", "Engine"], ["graphs_bytes", "graphs", "CUDA graphs"],
  ["measured_extra_bytes", "extra", "Measured extra"], ["reserve_bytes", "reserve", "Reserve"],
];
const WIDTH = 1000;
const HEIGHT = 20;

interface Part { tone: string; name: string; bytes: number }

/** What `bills` take together of `haveBytes`, line by line, and what is left; what is too much stands beyond the card's end. */
export function BillBar({ bills, haveBytes, title, free = "Free" }: { bills: Bill[]; haveBytes: Figure; title: string; free?: string }) {
  const parts: Part[] = LINES
    .map(([field, tone, name]) => ({ tone, name, bytes: bills.reduce((sum, bill) => sum + (bill[field] ?? 0), 0) }))
    .filter((part) => part.bytes > 0);
  const need = parts.reduce((sum, part) => sum + part.bytes, 0);
  const have = haveBytes ?? need;
  if (have > need) parts.push({ tone: "free", name: free, bytes: have - need });
  const whole = Math.max(need, have) || 1;
  const words = parts.map((part) => `${part.name} ${gib(part.bytes)}`).join(", ");
  const over = need > have ? `; ${gib(need - have)} more than there is` : "";
  let at = 0;
  return (
    <div class="bill">
      <svg class="bar" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label={`${title}: ${words}${over}`}>
        {parts.map((part) => {
          const width = (part.bytes / whole) * WIDTH;
          at += width;
          return <rect key={part.tone} class={`seg ${part.tone}`} x={at - width} y="0" width={width} height={HEIGHT} />;
        })}
        {need > have ? <rect class="beyond" x={(have / whole) * WIDTH} y="0" width={WIDTH - (have / whole) * WIDTH} height={HEIGHT} /> : null}
        {need > have ? <line class="edge" x1={(have / whole) * WIDTH} x2={(have / whole) * WIDTH} y1="0" y2={HEIGHT} /> : null}
      </svg>
      <ul class="legend" aria-hidden="true">
        {parts.map((part) => <li key={part.tone} class={`key ${part.tone}`}>{part.name} <b>{gib(part.bytes)}</b></li>)}
        {need > have ? <li class="key beyond-key">too much <b>{gib(need - have)}</b></li> : null}
      </ul>
    </div>
  );
}

const VERDICTS = { fits: "fits", tight: "tight", does_not_fit: "does not fit" };

/** One card's answer: the verdict, the sum in words, the bar. */
export function ReportBar({ report }: { report: Report }) {
  const hints = (report.hints ?? []).map((hint) => (typeof hint === "string" ? hint : hint.text)).slice(0, 3);
  const way = [report.variant_id, report.engine].filter(Boolean).join(" on ");
  return (
    <div class={`report ${report.verdict}`}>
      <p class="report-head">
        <span class={`verdict ${report.verdict}`}>{VERDICTS[report.verdict] ?? report.verdict}</span> <b>{report.card_name}</b>
        {report.simulated && !/simulated/i.test(report.card_name) ? " (simulated)" : ""}
        {report.need_bytes !== null && report.have_bytes !== null
          ? <span class="sum">needs {gib(report.need_bytes)} of {gib(report.have_bytes)}</span> : null}
      </p>
      {report.bill === null ? null : <BillBar bills={[report.bill]} haveBytes={report.have_bytes} title={`${report.model_id} on ${report.card_name}`} />}
      <p class="reason">{report.reason}{way === "" ? "" : ` (${way})`}</p>
      {hints.length === 0 ? null : <ul class="hints">{hints.map((hint) => <li key={hint}>{hint}</li>)}</ul>}
    </div>
  );
}
