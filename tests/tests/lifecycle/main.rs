//! A workspace after its first boot: restart, pause, hibernate, change, delete.
