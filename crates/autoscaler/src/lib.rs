//! How many consumers a pipeline needs: a pure function of what was seen.
