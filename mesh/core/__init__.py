"""Pure decisions: messages in, effects out. No socket, clock, thread, file or random source lives here."""
