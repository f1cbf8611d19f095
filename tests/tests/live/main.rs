//! Events as they happen: WebSocket, event stream, history, several servers.
