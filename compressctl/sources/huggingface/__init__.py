"""Networks of the library transformers, as folders on disk or on the Hub hold them."""
