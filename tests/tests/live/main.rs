//! Events as they happen: WebSocket, event stream, history, several servers.

mod fan_out;
mod history;
mod reach;
mod servers;
mod socket;
mod stream;
