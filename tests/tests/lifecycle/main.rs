//! A workspace after its first boot: restart, pause, hibernate, change, delete.

use molecule_tests::support;

mod budget;
mod deadlocks;
mod external;
mod hierarchy;
mod interleavings;
mod memories;
mod operator;
mod pausing;
mod requested;
mod restart;
mod sleeping;
mod snippets;
mod texts;
mod timeouts;
mod tools;
mod update;
