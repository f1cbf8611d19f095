//! Who may do what: every credential against every kind of route, and the routes that make credentials.
