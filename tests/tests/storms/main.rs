//! Faults in the middle of everything: databases that go away under load, fleets
//! that die at once, clients that leave, changes that meet, clocks that jump.

mod clients;
mod clock;
mod fleet;
mod leaving;
mod outage;
mod races;
mod servers;
mod shutdown;
mod stall;
mod tools;
