import { BillBar } from "../bill_bar";
import { count, digits, gib, px, seconds } from "../format";
import { Fact, Known, Simulated, State, Trouble } from "../known";
import { usePolled } from "../polling";
import type { Card, Cards, Placement, Workload } from "../types";

export function Plan() {
  const cards = usePolled<Cards>("/v1/cards", 10);
  const notes = cards.data?.notes ?? [];
  return (
    <>
      <header class="page-head"><h1>Plan</h1></header>
      <Trouble error={cards.error} />
      {cards.data?.data.length === 0 ? <p class="empty">This gateway runs without a plan; <code>rigserve plan</code> writes one.</p> : null}
      <ul class="rows" aria-label="Cards of the plan">
        {(cards.data?.data ?? []).map((card) => <Planned key={card.id} card={card} />)}
      </ul>
      {notes.length === 0 ? null : <section><h2>Notes</h2><ul class="notes">{notes.map((note) => <li key={note}>{note}</li>)}</ul></section>}
      {cards.data && cards.data.refusals.length > 0 ? <p>{cards.data.refusals.length} model(s) fit no card: see <a href="#/refusals">Refusals</a>.</p> : null}
    </>
  );
}

function Planned({ card }: { card: Card }) {
  return (
    <li class="row" aria-label={card.name}>
      <div class="row-head"><h2>{card.name}</h2>{card.simulated ? <Simulated /> : null}<span class="small id">{gib(card.total_bytes)}</span></div>
      {card.note ? <p class="small">{card.note}</p> : null}
      {card.placements.length === 0 ? <p class="small">Nothing is planned on this card.</p> : null}
      {card.placements.map((placement) => <Placed key={placement.id} placement={placement} total={card.total_bytes} />)}
    </li>
  );
}

export function workloadWords(workload: Workload): string {
  if (workload.kind === "image") return `${px(workload.width_px ?? 0, workload.height_px ?? 0)}, batch ${workload.batch ?? 1}`;
  return `${count(workload.context_tokens ?? 0)} tokens × ${count(workload.sequences ?? 1)} at once`;
}

function Placed({ placement, total }: { placement: Placement; total: number }) {
  const speed = placement.predicted_speed;
  const image = placement.workload.kind === "image";
  return (
    <section class="placed">
      <h3>{placement.model_id} <State state={placement.state} /></h3>
      <dl class="facts">
        <Fact name="Variant">{placement.variant_id}</Fact>
        <Fact name="Engine">{placement.choice.engine}, {placement.choice.dtype}{placement.choice.offload === "none" ? "" : `, offload ${placement.choice.offload}`}</Fact>
        <Fact name="Room for">{workloadWords(placement.workload)}</Fact>
        <Fact name={image ? "Predicted images/min" : "Predicted tok/s"}>
          <Known value={image ? speed?.images_per_min : speed?.decode_tok_s} why="no source supports a figure" show={digits} />
        </Fact>
        <Fact name="Predicted load time"><Known value={speed?.load_s} why="no source supports a figure" show={seconds} /></Fact>
      </dl>
      {placement.bill === null ? <p class="unknown">unknown: this placement has no bill</p>
        : <BillBar bills={[placement.bill]} haveBytes={total} title={`${placement.model_id} on its card`} free="Rest of the card" />}
      {placement.choice.reasons.length === 0 ? null
        : <details><summary>Why this engine and variant</summary><ul>{placement.choice.reasons.map((reason) => <li key={reason}>{reason}</li>)}</ul></details>}
    </section>
  );
}
