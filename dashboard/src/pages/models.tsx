import { useState } from "preact/hooks";
import { count, digits, px, seconds } from "../format";
import { Fact, Known, Simulated, State, Trouble } from "../known";
import { usePolled } from "../polling";
import { Sparkline } from "../sparkline";
import type { History, Line, List, Model, ModelFlow, Throughput } from "../types";
import { Window } from "../window";

export function Models() {
  const [span, setSpan] = useState("1m");
  const models = usePolled<List<Model>>("/v1/models", 3);
  const flow = usePolled<Throughput>(`/v1/throughput?window=${span}`, 3);
  const past = usePolled<History>("/v1/throughput/history", 5);
  return (
    <>
      <header class="page-head"><h1>Models</h1><Window span={span} choose={setSpan} /></header>
      <Trouble error={models.error ?? flow.error} />
      <ul class="rows" aria-label="Models">
        {(models.data?.data ?? []).map((model) => (
          <ModelRow key={model.id} model={model} span={span} flow={flow.data?.models.find((one) => one.id === model.id)}
            line={past.data?.models.find((one) => one.id === model.id)} bucketS={past.data?.bucket_s ?? 5} />
        ))}
      </ul>
      {models.data?.data.length === 0 ? <p class="empty">No model is served to you here.</p> : null}
    </>
  );
}

interface Row { model: Model; flow: ModelFlow | undefined; line: Line | undefined; bucketS: number; span: string }

function ModelRow({ model, flow, line, bucketS, span }: Row) {
  const image = model.kind === "image";
  const rate = image ? flow?.images_per_s : flow?.output_tokens_per_s;
  const why = (name: string) => flow?.reasons[name] ?? "not measured yet";
  const refused = Object.entries(flow?.refused ?? {});
  return (
    <li class="row" aria-label={model.id}>
      <div class="row-head">
        <h2>{model.id}</h2>
        {model.simulated ? <Simulated /> : null}
        <State state={model.state} />
        <a class="try" href={`#/${image ? "images" : "chat"}?model=${encodeURIComponent(model.id)}`}>Try it<span class="hidden"> : {model.id}</span></a>
      </div>
      <p class="small">
        {model.kind ?? "text or images"} on {model.engines.join(", ") || "an engine of its own"}{model.cards.length > 0 ? `, ${model.cards.join(", ")}` : ""};
        {" "}{image ? largest(model) : context(model)}
      </p>
      <dl class="facts">
        <Fact name={image ? "Images/s" : "Output tok/s"}>
          <Known value={rate} why={why(image ? "images_per_s" : "output_tokens_per_s")} show={digits} />
          <Sparkline values={image ? line?.denoise_steps_per_s : line?.output_tokens_per_s} bucketS={bucketS}
            unit={image ? "Denoise steps per second" : "Output tokens per second"} />
        </Fact>
        <Fact name="TTFT p50 / p95">
          <Known value={flow?.ttft_s.p95} why={why("ttft_s")} show={(p95) => `${seconds(flow?.ttft_s.p50 ?? p95)} / ${seconds(p95)} (n ${flow?.ttft_s.n})`} />
        </Fact>
        <Fact name="TPOT p95"><Known value={flow?.tpot_s.p95} why={why("tpot_s")} show={seconds} /></Fact>
        <Fact name="Queue p95"><Known value={flow?.queue_s.p95} why={why("queue_s")} show={seconds} /></Fact>
        <Fact name="Running / waiting">{flow === undefined ? <span class="unknown">unknown: not asked yet</span> : `${count(flow.running)} / ${count(flow.waiting)}`}</Fact>
        <Fact name="Failed/s"><Known value={flow?.failed_per_s} why={why("failed_per_s")} show={digits} /></Fact>
        <Fact name={`Refused, last ${span}`}>{refused.length === 0 ? "none" : refused.map(([code, n]) => `${code} ${n}`).join(", ")}</Fact>
      </dl>
    </li>
  );
}

function context(model: Model): string {
  return model.max_model_len ? `context of ${count(model.max_model_len)} tokens` : "context unknown: its engine was not planned here";
}

function largest(model: Model): string {
  const { width_px: width, height_px: height } = model.largest_image ?? { width_px: null, height_px: null };
  return width && height ? `images of up to ${px(width, height)}` : "largest image unknown: its engine was not planned here";
}
