"""What operators ask and do, whatever shows it to them: dead letters, doctor, watching."""
