import { useState } from "preact/hooks";
import type { PageOf } from "../app";
import { ask, Refused, send } from "../api";
import { count, digits } from "../format";
import { Known, State, Trouble } from "../known";
import { NewKey } from "../new_key";
import { usePolled } from "../polling";
import type { AuditRow, Key, List, Usage } from "../types";

export function Keys({ me }: PageOf) {
  const admin = me.role === "admin";
  return (
    <>
      <header class="page-head"><h1>Keys &amp; usage</h1></header>
      {admin ? <KeyTable /> : <p class="lead">{me.keyed ? "Keys are for administrators; below is what your key has used."
        : <>There are no keys: whoever reaches this gateway may ask. The first key is made with <code>rigserve keys create NAME --role admin</code>.</>}</p>}
      <UsageTable />
      {admin ? <Audit /> : null}
    </>
  );
}

function KeyTable() {
  const keys = usePolled<List<Key>>("/admin/keys", null);
  const [error, setError] = useState<Refused | null>(null);
  const revoke = async (key: Key) => {
    try {
      await send("DELETE", `/admin/keys/${encodeURIComponent(key.id)}`);
      setError(null);
      keys.again();
    } catch (failed) {
      setError(failed as Refused);
    }
  };
  return (
    <section>
      <h2>Keys</h2>
      <Trouble error={keys.error ?? error} />
      <NewKey made={keys.again} />
      <div class="scroll" tabIndex={0} role="region" aria-label="Keys">
        <table>
          <thead><tr><th>Name</th><th>Begins with</th><th>Role</th><th>State</th><th>Models</th><th>Limits</th><th>Expires</th><th><span class="hidden">Acts</span></th></tr></thead>
          <tbody>
            {(keys.data?.data ?? []).map((key) => (
              <tr key={key.id}>
                <th scope="row">{key.name}</th><td><code>{key.prefix}…</code></td><td>{key.role}</td><td><State state={key.state} /></td>
                <td>{key.models?.join(", ") ?? "all"}</td><td>{limitWords(key.limits)}</td><td>{key.expires_at === null ? "never" : day(key.expires_at)}</td>
                <td>{key.state === "active" ? <Revoke name={key.name} act={() => void revoke(key)} /> : null}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

const day = (unixS: number): string => new Date(unixS * 1000).toISOString().slice(0, 10);

function limitWords(limits: Record<string, unknown>): string {
  const words = Object.entries(limits).flatMap(([unit, value]) => (typeof value === "object" && value !== null
    ? Object.entries(value).map(([window, most]) => `${count(Number(most))} ${unit}/${window}`) : [`${String(value)} at once`]));
  return words.join(", ") || "none";
}

/** Asked twice: a revoked key can't be had back. */
function Revoke({ name, act }: { name: string; act: () => void }) {
  const [sure, setSure] = useState(false);
  if (!sure) return <button class="plain" onClick={() => setSure(true)}>Revoke<span class="hidden"> {name}</span></button>;
  return <><button class="stop" onClick={act}>Revoke {name} for good</button> <button class="plain" onClick={() => setSure(false)}>Keep it</button></>;
}

function UsageTable() {
  const usage = usePolled<List<Usage> & { totals: Usage }>("/v1/usage", null);
  const save = async () => {
    const url = URL.createObjectURL(await (await send("GET", "/v1/usage?format=csv")).blob());
    const link = Object.assign(document.createElement("a"), { href: url, download: "usage.csv" });
    link.click();
    URL.revokeObjectURL(url);
  };
  const rows = usage.data?.data ?? [];
  return (
    <section>
      <div class="page-head"><h2>Usage</h2><span><button onClick={usage.again}>Look again</button> <button onClick={() => void save()}>Save as CSV</button></span></div>
      <Trouble error={usage.error} />
      {usage.data !== null && rows.length === 0 ? <p class="empty">Nothing was used yet.</p> : (
        <div class="scroll" tabIndex={0} role="region" aria-label="Usage">
          <table>
            <thead><tr><th>Day (UTC)</th><th>Key</th><th>Model</th><th>Card</th><th class="n">Requests</th><th class="n">Prompt tokens</th><th class="n">Output tokens</th><th class="n">Images</th><th class="n">Seat time, s</th><th class="n">Energy</th></tr></thead>
            <tbody>
              {rows.map((row) => (
                <tr key={`${row.day}/${row.key_id}/${row.model}/${row.card}`}>
                  <th scope="row">{row.day}</th><td>{row.key_name ?? row.key_id ?? "nobody's"}</td><td>{row.model}</td><td>{row.card ?? "none known"}</td>
                  <td class="n">{count(row.requests)}</td><td class="n">{count(row.prompt_tokens)}</td><td class="n">{count(row.output_tokens)}</td>
                  <td class="n">{count(row.images)}</td><td class="n">{digits(row.seconds)}</td>
                  <td class="n"><Known value={row.joules} why="not metered" show={(joules) => `${digits(joules)} J`} /></td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}

function Audit() {
  const [rows, setRows] = useState<AuditRow[] | null>(null);
  const [error, setError] = useState<Refused | null>(null);
  const look = () => ask<List<AuditRow>>("GET", "/admin/audit").then((found) => { setRows(found.data); setError(null); }).catch(setError);
  return (
    <section>
      <div class="page-head"><h2>Audit log</h2><button onClick={look}>Show (it notes that you looked)</button></div>
      <Trouble error={error} />
      {rows === null ? null : (
        <div class="scroll" tabIndex={0} role="region" aria-label="Audit log">
          <table>
            <thead><tr><th>When</th><th>Who</th><th>What</th><th>Key</th></tr></thead>
            <tbody>{rows.map((row, index) => (
              <tr key={index}><td>{typeof row.at === "number" ? new Date(row.at * 1000).toISOString() : row.at}</td><td>{row.actor}</td><td>{row.act}</td><td>{row.key_id ?? ""}</td></tr>
            ))}</tbody>
          </table>
        </div>
      )}
    </section>
  );
}
