//! Agents coming, staying and finding each other.
