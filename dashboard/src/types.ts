// What the gateway answers, as far as the pages read it. Unknown is null, never 0.
export type Figure = number | null;

export interface Bill {
  weights_bytes: number; lora_bytes: number; kv_cache_bytes: number; activation_bytes: number; engine_bytes: number; graphs_bytes: number;
  reserve_bytes: number; measured_extra_bytes: number; total_bytes: number;
}
export interface Workload {
  kind: "text" | "image"; context_tokens?: number; sequences?: number; width_px?: number; height_px?: number; batch?: number;
  steps?: Figure;
}
export interface Speed { decode_tok_s: Figure; prefill_tok_s: Figure; images_per_min: Figure; load_s: Figure; basis: string }
export interface Report {
  model_id: string; card_id: string; card_name: string; simulated: boolean; verdict: "fits" | "tight" | "does_not_fit"; reason: string;
  variant_id: string | null; quant: string | null; engine: string | null; workload: Workload | null; bill: Bill | null;
  need_bytes: Figure; have_bytes: Figure; headroom_bytes: Figure; margin_bytes: Figure;
  hints?: ({ text: string } | string)[]; largest?: Workload | null; speed?: Speed | null;
}
export interface Choice { engine: string; dtype: string; kv_dtype: string; environment: string; offload: string; reasons: string[] }
export interface Backend {
  id: string; model_id: string; engine: string | null; state: string; reason: string | null; in_flight: number; slots: number;
  ejected: boolean; served: number; failed: number; url?: string;
}
export interface Placement extends Backend {
  variant_id: string; quant: string | null; choice: Choice; workload: Workload; bill: Bill | null; predicted_speed: Speed | null;
}
export interface Telemetry {
  power_watts: Figure; temperature_c: Figure; used_bytes: Figure; pcie_generation: Figure; pcie_width: Figure; throttle_reasons: string[] | null;
  energy_j: Figure;
}
export interface Card {
  id: string; name: string; vendor: string; total_bytes: number; simulated: boolean; note: string | null; state: string | null;
  state_reason: string | null; telemetry: Telemetry | null; planned_bytes: Figure; resident_bytes: Figure; placements: Placement[];
  link: { generation: Figure; width: Figure } | null; compute_capability: string | null; driver_version: string | null;
}
export interface Cards {
  data: Card[]; backends: Backend[]; refusals: { model_id: string; reports: Report[] }[]; notes: string[];
}
export interface Percentiles { p50: Figure; p95: Figure; n: number }
export interface Flow {
  id: string; running: number; requests_per_s: Figure; failed_per_s: Figure; prompt_tokens_per_s: Figure; output_tokens_per_s: Figure;
  images_per_s: Figure; denoise_steps_per_s: Figure; ttft_s: Percentiles; tpot_s: Percentiles; queue_s: Percentiles;
  output_tokens_per_joule?: Figure; watts?: Figure; reasons: Record<string, string>;
}
export interface ModelFlow extends Flow { kind: string | null; cards: string[]; waiting: number; refused: Record<string, number> }
export interface Throughput {
  window: string; covered_s: number; totals: Flow & { refused: Record<string, number> }; cards: Flow[]; models: ModelFlow[];
}
export interface Line { id: string; output_tokens_per_s: Figure[]; denoise_steps_per_s: Figure[] }
export interface History { bucket_s: number; cards: Line[]; models: Line[]; backends: Line[] }
export interface Model {
  id: string; kind: "text" | "image" | null; state: string; engines: string[]; cards: string[]; simulated: boolean; aliases: string[];
  max_model_len?: Figure; largest_image?: { width_px: Figure; height_px: Figure };
}
export interface List<T> { data: T[] }
export interface Refusal {
  model: string | null; route: string; status: number; code: string; message: string; param: string | null; count: number; first_at: string;
  at: string; key_id: string | null; fit: Report[]; cards_asked: number;
}
export interface CatalogueModel {
  id: string; title: string; kind: "chat" | "embedding" | "image"; variants: { id: string; quant: string }[]; max_context_tokens: Figure;
  native_px: Figure; multiple_px: Figure; default_steps: Figure;
}
export interface Catalogue { models: CatalogueModel[]; cards: { key: string; vendor: string; vram_bytes: Figure }[] }
export interface Fit { model: string; fits: boolean; reports: Report[] }
export interface Me { keyed: boolean; key_id: string | null; name: string | null; role: "user" | "admin"; models: string[] | null }
export interface Key {
  id: string; name: string; prefix: string; role: string; state: string; models: string[] | null; limits: Record<string, unknown>;
  created_at: number; expires_at: Figure; key?: string;
}
export interface Usage {
  day: string; key_id: string | null; key_name: string | null; model: string; card: string | null; requests: number; prompt_tokens: number;
  output_tokens: number; images: number; seconds: number; joules: Figure;
}
export interface AuditRow { at: number | string; actor: string; act: string; key_id: string | null; detail: unknown }
