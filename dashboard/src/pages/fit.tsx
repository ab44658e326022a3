import { useEffect, useState } from "preact/hooks";
import { ask, Refused } from "../api";
import { ReportBar } from "../bill_bar";
import { count, digits, seconds } from "../format";
import { Known, Trouble } from "../known";
import { usePolled } from "../polling";
import { Slider } from "../slider";
import type { Catalogue, CatalogueModel, Fit as Answer, Report } from "../types";
import { workloadWords } from "./plan";

const SETTLE_MS = 150;
const MOST_CONTEXT_TOKENS = 131072;

interface Wish { model: string; variant: string; cards: string; context: number; sequences: number; side: number; batch: number }

export function Fit() {
  const catalogue = usePolled<Catalogue>("/v1/catalogue", null);
  const [wish, setWish] = useState<Wish>({ model: "", variant: "", cards: "", context: 4096, sequences: 1, side: 512, batch: 1 });
  const models = catalogue.data?.models ?? [];
  const model = models.find((one) => one.id === wish.model) ?? models.find((one) => one.kind === "chat") ?? models[0];
  const change = (more: Partial<Wish>) => setWish((before) => ({ ...before, ...more }));
  const question = model === undefined ? null : questionOf(model, wish);
  const { answer, error } = useFit(question);
  return (
    <>
      <header class="page-head"><h1>Fit explorer</h1></header>
      <p class="lead">Would it fit? The same arithmetic, and the same numbers, as <code>POST /v1/fit</code> and the plan.</p>
      <Trouble error={catalogue.error} />
      {model === undefined ? null : <Controls models={models} model={model} wish={wish} change={change} cards={catalogue.data?.cards ?? []} />}
      <Trouble error={error} />
      <p class="hidden" role="status">{answer === null ? "" : spoken(answer)}</p>
      {answer === null ? null : <div class="reports">{answer.reports.map((report) => <OneCard key={report.card_id} report={report} />)}</div>}
      {question === null ? null : <details class="question"><summary>As a request</summary><pre>POST /v1/fit{"\n"}{JSON.stringify(question, null, 1)}</pre></details>}
    </>
  );
}

function questionOf(model: CatalogueModel, wish: Wish): Record<string, unknown> {
  const question: Record<string, unknown> = { model: model.id };
  if (wish.cards.trim() !== "") question["cards"] = wish.cards.trim();
  if (wish.variant !== "") question["variant"] = wish.variant;
  if (model.kind === "image") return { ...question, width_px: wish.side, height_px: wish.side, batch: wish.batch };
  return { ...question, context_tokens: Math.min(wish.context, model.max_context_tokens ?? wish.context), sequences: wish.sequences };
}

/** The answer to the question as it is once the sliders rest; the last one stays while the next is asked. */
function useFit(question: Record<string, unknown> | null): { answer: Answer | null; error: Refused | null } {
  const [answer, setAnswer] = useState<Answer | null>(null);
  const [error, setError] = useState<Refused | null>(null);
  const asked = question === null ? null : JSON.stringify(question);
  useEffect(() => {
    if (asked === null) return undefined;
    const gone = new AbortController();
    const timer = window.setTimeout(async () => {
      try {
        setAnswer(await ask<Answer>("POST", "/v1/fit", JSON.parse(asked), gone.signal));
        setError(null);
      } catch (failed) {
        if (gone.signal.aborted) return;
        setAnswer(null);
        setError(failed instanceof Refused ? failed : new Refused(String(failed), 0, "unknown"));
      }
    }, SETTLE_MS);
    return () => {
      window.clearTimeout(timer);
      gone.abort();
    };
  }, [asked]);
  return { answer, error };
}

function spoken(answer: Answer): string {
  const good = answer.reports.filter((report) => report.verdict !== "does_not_fit").length;
  return `${answer.model} fits ${good} of ${answer.reports.length} cards.`;
}

interface ControlsOf { models: CatalogueModel[]; model: CatalogueModel; wish: Wish; change: (more: Partial<Wish>) => void; cards: Catalogue["cards"] }

function Controls({ models, model, wish, change, cards }: ControlsOf) {
  const add = (key: string) => change({ cards: wish.cards.trim() === "" ? key : `${wish.cards.trim()}, ${key}` });
  const pick = (id: string) => {
    const chosen = models.find((one) => one.id === id);
    change({ model: id, variant: "", side: chosen?.native_px ?? wish.side });
  };
  return (
    <form class="controls" onSubmit={(event) => event.preventDefault()}>
      <label>Model
        <select value={model.id} onChange={(event) => pick(event.currentTarget.value)}>
          {["chat", "embedding", "image"].map((kind) => (
            <optgroup key={kind} label={kind}>{models.filter((one) => one.kind === kind).map((one) => <option key={one.id} value={one.id}>{one.id}</option>)}</optgroup>
          ))}
        </select>
      </label>
      <label>Variant
        <select value={wish.variant} onChange={(event) => change({ variant: event.currentTarget.value })}>
          <option value="">the best that fits</option>
          {model.variants.map((one) => <option key={one.id} value={one.id}>{one.id}</option>)}
        </select>
      </label>
      <label class="wide">Cards
        <input value={wish.cards} placeholder="this rig's own; or for example P104-100 8GB:2, RTX 3060 Ti" spellcheck={false} maxLength={2000}
          onInput={(event) => change({ cards: event.currentTarget.value })} />
      </label>
      <label>Add a card
        <select value="" onChange={(event) => { add(event.currentTarget.value); event.currentTarget.value = ""; }}>
          <option value="">choose…</option>
          {cards.map((card) => <option key={card.key} value={card.key}>{card.key}</option>)}
        </select>
      </label>
      {model.kind === "image" ? <ImageSliders model={model} wish={wish} change={change} /> : <TextSliders model={model} wish={wish} change={change} />}
    </form>
  );
}

interface SlidersOf { model: CatalogueModel; wish: Wish; change: (more: Partial<Wish>) => void }

function TextSliders({ model, wish, change }: SlidersOf) {
  const most = Math.min(model.max_context_tokens ?? MOST_CONTEXT_TOKENS, MOST_CONTEXT_TOKENS);
  const steps = [...Array(18).keys()].map((power) => 2 ** power).filter((tokens) => tokens >= 256 && tokens < most).concat(most);
  const at = Math.max(0, steps.findIndex((tokens) => tokens >= Math.min(wish.context, most)));
  return (
    <>
      <Slider name="Context" value={at} least={0} most={steps.length - 1} words={`${count(steps[at]!)} tokens`} set={(index) => change({ context: steps[index]! })} />
      <Slider name="Concurrency" value={wish.sequences} least={1} most={64} words={`${wish.sequences} at once`} set={(sequences) => change({ sequences })} />
    </>
  );
}

function ImageSliders({ model, wish, change }: SlidersOf) {
  const step = Math.max(64, model.multiple_px ?? 8);
  const least = Math.min(step, model.native_px ?? step);
  return (
    <>
      <Slider name="Side" value={wish.side} least={least} most={2048} step={least} words={`${wish.side} × ${wish.side} px`} set={(side) => change({ side })} />
      <Slider name="Batch" value={wish.batch} least={1} most={8} words={`${wish.batch} at once`} set={(batch) => change({ batch })} />
    </>
  );
}

function OneCard({ report }: { report: Report }) {
  const speed = report.speed;
  const image = report.workload?.kind === "image";
  return (
    <section class="row">
      <ReportBar report={report} />
      <p class="small">
        {report.verdict === "does_not_fit" ? null : (
          <>Predicted: <Known value={image ? speed?.images_per_min : speed?.decode_tok_s} why="no source supports a figure"
            show={(value) => `${digits(value)} ${image ? "images/min" : "tok/s"}`} />, loads in{" "}
          <Known value={speed?.load_s} why="no source supports a figure" show={seconds} />. </>
        )}
        {report.largest ? <>The largest that fits: {workloadWords(report.largest)}.</> : null}
      </p>
    </section>
  );
}
