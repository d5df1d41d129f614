"""What every ad platform must do, against its sandbox: one suite, one `Case` a platform in a module of its own."""
