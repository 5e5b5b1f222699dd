// Search asks a worker, and browsers start none for a page that is opened from disk: there, the worker's script runs
// in a hidden frame. The theme leaves its own version of this file out, which it would fetch, where it finds this name.
if (location.protocol === 'file:') self.Worker = class {
  constructor(url) {
    this.frame = Object.assign(document.createElement('iframe'), {hidden: true, title: 'Search'})
    document.body.append(this.frame)
    const inside = this.frame.contentWindow
    inside.postMessage = data => setTimeout(() => this.onmessage?.({data: structuredClone(data)}))
    this.ready = new Promise((resolve, reject) => {
      const script = inside.document.createElement('script')
      Object.assign(script, {src: new URL(url, document.baseURI), onload: () => resolve(inside), onerror: reject})
      inside.document.head.append(script)
    }).catch(error => this.onerror?.(error))
  }
  postMessage(data) { this.ready.then(inside => inside?.dispatchEvent(new inside.MessageEvent('message', {data: structuredClone(data)}))) }
  terminate() { this.frame.remove() }
}
