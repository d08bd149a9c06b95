"""Pictures: charts and tables as SVG and HTML, and curves as text for a terminal."""
