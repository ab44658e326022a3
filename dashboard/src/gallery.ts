// The pictures that were made here, in this browser's IndexedDB: nothing of them is kept by the gateway.
const KEPT = 24;

export interface Picture { at: number; model: string; prompt: string; size: string; steps: number | null; seed: number | null; data: Blob }

function open(): Promise<IDBDatabase> {
  return new Promise((done, failed) => {
    const asked = indexedDB.open("rigserve", 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore("pictures", { keyPath: "at" });
    asked.onsuccess = () => done(asked.result);
    asked.onerror = () => failed(asked.error);
  });
}

function finished<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((done, failed) => {
    request.onsuccess = () => done(request.result);
    request.onerror = () => failed(request.error);
  });
}

/** Newest first; nothing where the browser keeps nothing. */
export async function pictures(): Promise<Picture[]> {
  try {
    const database = await open();
    const all = await finished(database.transaction("pictures").objectStore("pictures").getAll() as IDBRequest<Picture[]>);
    database.close();
    return all.sort((one, other) => other.at - one.at);
  } catch {
    return [];
  }
}

/** Adds one and forgets the oldest beyond KEPT. */
export async function keep(picture: Picture): Promise<void> {
  const old = await pictures();
  const database = await open();
  const store = database.transaction("pictures", "readwrite").objectStore("pictures");
  for (const gone of old.slice(KEPT - 1)) store.delete(gone.at);
  await finished(store.put(picture));
  database.close();
}

/** One, or all. */
export async function forget(at?: number): Promise<void> {
  const database = await open();
  const store = database.transaction("pictures", "readwrite").objectStore("pictures");
  await finished(at === undefined ? store.clear() : store.delete(at));
  database.close();
}
