"""Who is who: the consortium's authority, each party's keys, enrolment by certificate request."""
