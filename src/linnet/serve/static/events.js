// What one part of the page tells the others, so that no two of them need each other.
//
// jobs: what is to be shown has changed          progress, preview: of a job, from the server
// waiting: how many jobs wait has changed        asked: a job was just asked for
// again: the form is to hold a job's settings    beginning: what the video begins with has changed
// lost: what had the focus is no more            back: a deleted job is there again

const events = new EventTarget();

export const tell = (name, detail) => void events.dispatchEvent(new CustomEvent(name, { detail }));

// `act` is called with what was told, before `tell` returns.
export const on = (name, act) => events.addEventListener(name, ({ detail }) => act(detail));
