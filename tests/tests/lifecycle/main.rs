//! A workspace after its first boot: restart, pause, hibernate, change, delete.

use molecule_tests::support;

mod interleavings;
mod pausing;
mod requested;
mod restart;
mod sleeping;
mod tools;
mod budget;
mod external;
mod hierarchy;
mod memories;
mod operator;
mod snippets;
mod texts;
mod timeouts;
mod update;
