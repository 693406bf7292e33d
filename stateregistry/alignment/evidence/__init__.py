"""Evidence: what tells layers of one colour apart, a kind in each module; `ties` asks them and weighs what they say."""
