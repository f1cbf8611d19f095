//! Who may do what: every credential against every kind of route, and the routes
//! that make credentials.

mod canvas_session;
mod control_plane;
mod database;
mod org_tokens;
mod servers;
mod sessions;
mod test_tokens;
mod tickets;
mod time;
mod truth_table;
mod viewport;
mod workspace_tokens;
