//! Secrets: routes, encryption, rotation, restarts.
