// As much of IndexedDB as the queue uses, in memory: stores with keys, and transactions whose end
// comes later, as the real one's does.

const later = (work) => setTimeout(work, 0);

class Request {
  constructor(result) {
    this.result = result;
    later(() => this.onsuccess?.());
  }
}

class Store {
  constructor(map, keyPath) {
    Object.assign(this, { map, keyPath });
  }

  put(value, key = value[this.keyPath]) {
    this.map.set(key, structuredClone(value));
    return new Request();
  }

  delete(key) {
    this.map.delete(key);
    return new Request();
  }

  get(key) {
    return new Request(structuredClone(this.map.get(key)));
  }

  getAll() {
    const keys = [...this.map.keys()].sort((a, b) => a - b);
    return new Request(keys.map((key) => structuredClone(this.map.get(key))));
  }
}

class Database {
  stores = new Map();

  createObjectStore(name, { keyPath } = {}) {
    this.stores.set(name, new Store(new Map(), keyPath));
  }

  transaction() {
    const transaction = { objectStore: (name) => this.stores.get(name) };
    later(() => transaction.oncomplete?.());
    return transaction;
  }
}

export class FakeIndexedDb {
  databases = new Map();

  open(name) {
    const known = this.databases.get(name);
    const database = known ?? new Database();
    this.databases.set(name, database);
    const request = { result: database };
    later(() => {
      if (!known) request.onupgradeneeded();
      request.onsuccess();
    });
    return request;
  }
}
