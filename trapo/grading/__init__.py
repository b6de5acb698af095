"""Is an answer right?"""
