//! Messages to agents: `POST /workspaces/:id/a2a`.

mod answers;
mod bodies;
mod callers;
mod failing;
mod raw_agent;
mod sleeping;
mod stand_in;
mod states;
mod tools;
