const CUT = "The answer broke off before it was whole.";

/** The events of an answer as they come: the data of each, without [DONE]. An answer that ends before [DONE] is a failure, however clean.
 * The gateway's last word is an error event, and then the connection is cut. A browser may forget what was not read yet when that happens, so
 * it is read without a pipe between; where the event is lost all the same, CUT says what is left to say. */
export async function* events(answer: Response, signal: AbortSignal): AsyncGenerator<unknown> {
  const reader = answer.body!.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((failed: unknown) => {
        throw signal.aborted ? failed : new Error(CUT);
      });
      if (done) throw new Error(CUT);
      const blocks = (rest + decoder.decode(value, { stream: true })).split("\n\n");
      rest = blocks.pop() ?? "";
      for (const block of blocks) {
        const data = block.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart()).join("\n");
        if (data === "[DONE]") return;
        if (data !== "") yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}
