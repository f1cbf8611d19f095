//! A stand-in for api.github.com: checks the App JWT, hands out rotating tokens.
