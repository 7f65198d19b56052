"""The notebooks of jaxticket, each a text file and a file with outputs, and what makes them."""
