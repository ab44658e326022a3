import { ReportBar } from "../bill_bar";
import { ago, count } from "../format";
import { Trouble } from "../known";
import { usePolled } from "../polling";
import type { Cards, List, Refusal, Report } from "../types";

export function Refusals() {
  const refusals = usePolled<List<Refusal>>("/v1/refusals", 3);
  const cards = usePolled<Cards>("/v1/cards", null);
  const planned = cards.data?.refusals ?? [];
  return (
    <>
      <header class="page-head"><h1>Refused, and why</h1></header>
      <Trouble error={refusals.error} />
      {refusals.data?.data.length === 0 ? <p class="empty">Nothing was refused since the gateway started.</p> : null}
      <ul class="rows" aria-label="Refused requests">
        {(refusals.data?.data ?? []).map((refusal) => (
          <li class="row refusal" key={`${refusal.key_id}/${refusal.model}/${refusal.code}`}>
            <div class="row-head">
              <h2>{refusal.model ?? "a model that is not here"}</h2>
              <span class="badge code">{refusal.status} {refusal.code}</span>
              <span class="small id">{refusal.count > 1 ? `${count(refusal.count)} times, last ` : ""}{ago(refusal.at)}{refusal.key_id ? `, ${refusal.key_id}` : ""}</span>
            </div>
            <p>{refusal.message}</p>
            <Arithmetic reports={refusal.fit} cards={refusal.cards_asked} />
          </li>
        ))}
      </ul>
      {planned.length === 0 ? null : (
        <section>
          <h2>Refused by the plan</h2>
          <ul class="rows" aria-label="Refused by the plan">
            {planned.map((refusal) => (
              <li class="row refusal" key={refusal.model_id}>
                <div class="row-head"><h3>{refusal.model_id}</h3><span class="badge code">fits no card</span></div>
                <Arithmetic reports={refusal.reports} cards={refusal.reports.length} />
              </li>
            ))}
          </ul>
        </section>
      )}
    </>
  );
}

/** The bill beside what each card has. */
function Arithmetic({ reports, cards }: { reports: Report[]; cards: number }) {
  if (reports.length === 0) return null;
  return (
    <div class="reports">
      {reports.map((report) => <ReportBar key={report.card_id} report={report} />)}
      {cards > reports.length ? <p class="small">and {count(cards - reports.length)} more cards with less room</p> : null}
    </div>
  );
}
