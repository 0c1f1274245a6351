"""What a finished run gives to others: its model card, its merged model, its repository on the hub."""
