// A client of the API for a browser. docs/frontend.md explains its parts.

/** What the API answers when it refuses: a problem document (RFC 9457). */
export class Problem extends Error {
  constructor(status, problem) {
    super(problem.detail ?? problem.title);
    this.status = status;
    this.problem = problem;
  }
}

export class Crm {
  constructor(address, token) {
    this.address = address.replace(/\/$/, "");
    this.token = token;
  }

  async request(path, { method = "GET", headers = {}, body, signal } = {}) {
    const response = await fetch(this.address + path, {
      method,
      signal,
      cache: "no-store",
      headers: {
        Authorization: `Bearer ${this.token}`,
        ...(body ? { "Content-Type": "application/json" } : {}),
        ...headers,
      },
      body: body && JSON.stringify(body),
    });
    if (response.ok) return response;
    const isProblem = response.headers.get("Content-Type")?.includes("json");
    throw new Problem(response.status, isProblem ? await response.json() : { title: "No answer" });
  }

  async get(path, query = {}) {
    return (await this.request(`${path}?${new URLSearchParams(query)}`)).json();
  }

  /** A page of the list, of those that fulfil all filters: {items, total, next_cursor}. */
  list(filters, cursor = null) {
    return this.get("/api/opportunities", { ...filters, limit: 50, ...(cursor && { cursor }) });
  }

  /** A deal, with the ETag that says which version of it this is. */
  async read(id) {
    const response = await this.request(`/api/opportunities/${id}`);
    return { deal: await response.json(), etag: response.headers.get("ETag") };
  }

  /** Move a deal, unless it has changed since the version that the user saw. */
  async move(id, etag, workflow_status) {
    const response = await this.request(`/api/opportunities/${id}`, {
      method: "PATCH",
      headers: { "If-Match": etag },
      body: { workflow_status },
    });
    return { deal: await response.json(), etag: response.headers.get("ETag") };
  }

  /** Where the feed of changes ends now. */
  async end() {
    return (await this.get("/api/changes", { since: "9999-01-01" })).next_cursor;
  }

  /** Each change after a cursor, once; the return value is the cursor to go on from. */
  async *changes(cursor) {
    for (;;) {
      const feed = await this.get("/api/changes", { cursor, limit: 1000 });
      yield* feed.items;
      cursor = feed.next_cursor;
      if (!feed.has_more) return cursor;
    }
  }

  /** The events from a cursor on, for ever: {name, data}; it connects again by itself. */
  async *events(cursor, signal) {
    let lastId = cursor;
    for (;;) {
      try {
        const stream = await this.request("/api/events", {
          headers: { "Last-Event-ID": lastId },
          signal,
        });
        for await (const event of parse(stream.body)) {
          lastId = event.id ?? lastId;
          yield event;
          if (event.name === "signed-out") return;
        }
      } catch (error) {
        // The token is good no more, or the page wants no events any more.
        if (signal?.aborted || error.status === 401 || error.status === 403) throw error;
      }
      yield { name: "interrupted", data: {} };
      await new Promise((resolve) => setTimeout(resolve, 2000));
    }
  }
}

/** The events of a stream of bytes. Lines that begin with a colon only keep it open. */
async function* parse(bytes) {
  const reader = bytes.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "";;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const event = {};
      for (const line of part.split("\n")) {
        const [name, value] = line.split(/: ?(.*)/s);
        if (name) event[name] = value;
      }
      if (event.data) yield { name: event.event, data: JSON.parse(event.data), id: event.id };
    }
  }
}
