"""Long runs whose results the package ships or its documents quote; not part of the installed package."""
