//! A workspace after its first boot: restart, pause, hibernate, change, delete.

mod budget;
mod external;
mod hierarchy;
mod memories;
mod operator;
mod snippets;
mod texts;
mod timeouts;
mod update;
